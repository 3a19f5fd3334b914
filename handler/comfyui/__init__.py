"""One ComfyUI: its process, HTTP API, websocket, queue, and the admission of prompts to it."""
