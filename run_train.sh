#!/usr/bin/env bash
''':'
# Start training on this node, one process a GPU (or CPU process):
#     NGPU=8 CONFIG_FILE=train_configs/x.toml ./run_train.sh [--section.key value ...]
# On several nodes let torchrun start this very file, which is bash and Python at once:
#     torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 \
#         run_train.sh --job.config_file train_configs/x.toml
# LOG_RANK=0,1 chooses the ranks whose log is shown, PYTHON=/path/to/python the interpreter.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
if ! command -v "$python" >/dev/null; then
    echo "error: PYTHON = '$python': no such program" >&2
    exit 2
fi
NGPU=${NGPU:-1}
if [[ ! $NGPU =~ ^[1-9][0-9]{0,3}$ ]]; then
    echo "error: NGPU = '$NGPU': expected the number of processes, such as 8" >&2
    exit 2
fi
cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > NGPU ? cores / NGPU : 1))}
export LOG_RANK=${LOG_RANK:-0}
config=()
[ -z "${CONFIG_FILE:-}" ] || config=(--job.config_file "$CONFIG_FILE")
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m tokenkit.launcher --standalone --nproc-per-node="$NGPU" \
    "$root/train.py" ${config[@]+"${config[@]}"} "$@"
'''
import runpy, pathlib, sys  # noqa
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent)); runpy.run_path(str(pathlib.Path(__file__).resolve().parent / "train.py"), run_name="__main__")  # noqa
