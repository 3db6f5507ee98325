package policy

api_version := "0.10.0"
framework_version := "0.2.3"

# Generate your own with `az confcom acipolicygen`; this one stands for the example's image.
containers := [{"id": "trainer", "command": ["python3", "-m", "train"], "allow_elevated": false, "allow_stdio_access": false, "exec_processes": [], "layers": ["57b0f7e150f0348fefe22af30fb3037817ca445086d6afac5df2318f60f1beed"], "no_new_privileges": true, "working_dir": "/"}]
allow_environment_variable_dropping := false
allow_unencrypted_scratch := false
allow_dump_stacks := false
allow_runtime_logging := false
