"""Stand-ins and fakes that mailferry's own tests use, for users' tests too."""
