"""What the service counts: the table of all metrics, how journal records become increments, and the page of them."""
