"""From lesson source to notebooks: course/ -> solutions/ -> notebooks/."""
