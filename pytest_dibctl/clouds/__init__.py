"""Where test images boot: the protocols, and the engines that implement them."""
