"""Run ComfyUI's main.py as a script that ends when its standard input closes.

The process that started the server has the other end of the pipe, so the server ends with the demo or test in any case.

    python serve.py COMFYUI [options of main.py]
"""

import os
import runpy
import sys
import threading


def main() -> None:
    """Become `python COMFYUI/main.py [options]`."""
    comfyui = sys.argv[1]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    script = os.path.join(comfyui, "main.py")
    sys.argv = [script, *sys.argv[2:]]
    sys.path[0] = comfyui
    runpy.run_path(script, run_name="__main__")


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
