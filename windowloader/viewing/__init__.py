"""What people look at: inspections, previews, plots, tables in notebooks."""
