"""Studies: methods x seeds x data, trained, tested and put into tables; resumable at any point."""
