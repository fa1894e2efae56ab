"""What people look at: pictures, animations, plots."""
