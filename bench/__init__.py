"""Programs that measure; nothing here is part of the product."""
