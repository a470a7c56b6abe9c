"""Read the API's data: JSON into models, URLs, cursors, pages of lists, and the order of lists."""
