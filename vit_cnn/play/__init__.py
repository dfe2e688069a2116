"""A page to play with trained networks: change an image, and see at once what each of them says and where it looks."""
