"""Moving pictures: frames from files, cameras and addresses, tracks over them, films written."""
