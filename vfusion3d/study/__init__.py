"""The user study of Figure 5: the answers and the page that asks."""
