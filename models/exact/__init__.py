"""The networks of models/ in exact integers, as coding runs them."""
