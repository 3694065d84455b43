"""What people look at: the demo, thumbnails, help images, the miniature in the browser."""
