"""Where tokens are made. A backend is one method; batching, also across jobs, is its own business."""
