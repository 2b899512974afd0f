"""Mailbox feeds: messages -> spreadsheets -> rows in PostgreSQL."""
