"""Model files: where they lie, downloading them, keeping them, finding them."""
