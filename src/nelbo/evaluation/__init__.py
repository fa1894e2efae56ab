"""How good is the model: in bits per dimension, with an error bar, beside what ordinary codecs need."""
