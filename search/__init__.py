"""Which recipe next?"""
