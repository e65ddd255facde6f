"""One runner per golden function: ``runner(folder, case)`` asserts the case or raises."""

from tests.golden_runners import baselines, losses, pair_bias, tokenizers, training

RUNNERS = {
    **baselines.RUNNERS,
    **losses.RUNNERS,
    **pair_bias.RUNNERS,
    **tokenizers.RUNNERS,
    **training.RUNNERS,
}
