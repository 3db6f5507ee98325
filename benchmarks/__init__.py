"""What the kit costs against a flat program that registers the same resources. Run `python -m benchmarks`."""
