"""One runner per golden function: ``runner(folder, case)`` asserts the case or raises."""

from tests.golden_runners import baselines, losses, tokenizers, training

RUNNERS = {**baselines.RUNNERS, **losses.RUNNERS, **tokenizers.RUNNERS, **training.RUNNERS}
