"""One runner per golden function: ``runner(folder, case)`` asserts the case or raises."""

from tests.golden_runners import losses, tokenizers, training

RUNNERS = {**losses.RUNNERS, **tokenizers.RUNNERS, **training.RUNNERS}
