"""Where messages are: IMAP and Maildir. Find, fetch, mark; MIME structure; watching."""
