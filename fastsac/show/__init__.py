"""What people look at: plots, films, reports, exported policies, and tables."""
