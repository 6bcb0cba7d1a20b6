"""A trained model whose language model's matrices are int8: made once, evaluated, and registered if it is as good."""
