"""What the report says about its own figures; the page and the Markdown share it."""

KEPT = (
    "The teacher itself wrote these texts, token by token from its whole distribution, so a "
    "model's bits per byte on them less the teacher's own estimate the Kullback–Leibler divergence "
    "KL(teacher ‖ model) per byte: what of the teacher's knowledge is gone, which no amount of "
    "fine-tuning on the training text can make look smaller."
)
BITS = (
    "Negative log2-likelihood of held-out text divided by its UTF-8 bytes; lower is better. Bytes "
    "are the same for every tokenizer, so models can be compared. ± is the standard error over "
    "documents; bars in plots show two of it to each side."
)
DIFFERENCE = (
    "All models read the same documents, so the difference from the teacher is known better than "
    "each value alone."
)
COST = (
    "Greedy continuations of the prompts below, one after another, reading the prompt included; on "
    "the machine that made this report, so compare within it only."
)
ROWS = (
    "Relative change of each token's row since training began. A row that changed by less than 1% "
    "still is what it was initialised to: training hardly ever saw that token."
)
CURVES = "As the run logged them."
SAMPLES = "Every model goes on from the same prompts, greedily, without a chat template."
TASKS = "Values and standard errors as lm-eval gives them."
