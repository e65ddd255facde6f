"""One runner per golden function: ``runner(folder, case)`` asserts the case or raises."""

from tests.golden_runners import baselines, hypernet, losses, pair_bias, tokenizers, training

RUNNERS = {
    **baselines.RUNNERS,
    **hypernet.RUNNERS,
    **losses.RUNNERS,
    **pair_bias.RUNNERS,
    **tokenizers.RUNNERS,
    **training.RUNNERS,
}
