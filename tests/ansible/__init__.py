"""The Ansible collection, by Ansible itself, against a real gateway."""
