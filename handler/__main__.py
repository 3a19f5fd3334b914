"""The RunPod serverless worker as a process: `python -m handler`."""

from handler.runpod import adapter

if __name__ == "__main__":
    try:
        adapter.leave(adapter.main())
    except SystemExit as exc:  # of the SDK, after a --test_input
        adapter.leave(exc.code)
