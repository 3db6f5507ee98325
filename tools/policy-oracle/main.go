// Asks hcsshim's own policy enforcer, as it runs inside the utility machine of a confidential container group,
// what a policy allows. Reads {"policy": Rego, "steps": [{"do": …}, …]} and prints for each step why it was
// refused, or null.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	"github.com/Microsoft/hcsshim/pkg/securitypolicy"
	oci "github.com/opencontainers/runtime-spec/specs-go"
)

type step struct {
	Do              string
	Target          string
	Hash            string
	Container       string
	Layers          []string
	Command         []string
	Environment     []string
	Directory       string
	Mounts          []oci.Mount
	Privileged      bool
	NoNewPrivileges bool
	User            securitypolicy.IDName
	Groups          []securitypolicy.IDName
	Umask           string
	Capabilities    []string
	Seccomp         string
	Encrypted       bool
	Signal          int
	Rego            string
	Issuer          string
	Feed            string
}

type answer struct {
	Refused      *string
	Environment  []string
	Capabilities []string
	Stdio        bool
}

func main() {
	var asked struct {
		Policy string
		Steps  []step
	}
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(asked.Policy))
	enforcer, err := securitypolicy.CreateSecurityPolicyEnforcer("rego", encoded, nil, nil, 1<<16)
	if err != nil {
		fatal(err)
	}
	answers := []answer{}
	for _, one := range asked.Steps {
		answers = append(answers, ask(enforcer, one))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fatal(err)
	}
}

func ask(enforcer securitypolicy.SecurityPolicyEnforcer, one step) (found answer) {
	ctx := context.Background()
	var err error
	switch one.Do {
	case "mount_device":
		err = enforcer.EnforceDeviceMountPolicy(ctx, one.Target, one.Hash)
	case "mount_overlay":
		err = enforcer.EnforceOverlayMountPolicy(ctx, one.Container, one.Layers, one.Target)
	case "create_container":
		var environment securitypolicy.EnvList
		var kept *oci.LinuxCapabilities
		environment, kept, found.Stdio, err = enforcer.EnforceCreateContainerPolicy(
			ctx, "sandbox", one.Container, one.Command, one.Environment, one.Directory, one.Mounts,
			one.Privileged, one.NoNewPrivileges, one.User, one.Groups, one.Umask, capabilities(one), one.Seccomp)
		found.Environment = environment
		if kept != nil {
			found.Capabilities = kept.Bounding
		}
	case "exec_in_container":
		_, _, found.Stdio, err = enforcer.EnforceExecInContainerPolicy(
			ctx, one.Container, one.Command, one.Environment, one.Directory,
			one.NoNewPrivileges, one.User, one.Groups, one.Umask, capabilities(one))
	case "exec_external":
		_, found.Stdio, err = enforcer.EnforceExecExternalProcessPolicy(ctx, one.Command, one.Environment, one.Directory)
	case "signal":
		err = enforcer.EnforceSignalContainerProcessPolicy(ctx, one.Container, syscall.Signal(one.Signal), true, one.Command)
	case "shutdown":
		err = enforcer.EnforceShutdownContainerPolicy(ctx, one.Container)
	case "get_properties":
		err = enforcer.EnforceGetPropertiesPolicy(ctx)
	case "dump_stacks":
		err = enforcer.EnforceDumpStacksPolicy(ctx)
	case "runtime_logging":
		err = enforcer.EnforceRuntimeLoggingPolicy(ctx)
	case "scratch_mount":
		err = enforcer.EnforceScratchMountPolicy(ctx, one.Target, one.Encrypted)
	case "plan9_mount":
		err = enforcer.EnforcePlan9MountPolicy(ctx, one.Target)
	case "load_fragment":
		err = enforcer.LoadFragment(ctx, one.Issuer, one.Feed, one.Rego)
	default:
		fatal(fmt.Errorf("there is no step %q", one.Do))
	}
	if err != nil {
		text := err.Error()
		found.Refused = &text
	}
	return found
}

func capabilities(one step) *oci.LinuxCapabilities {
	none := []string{}
	return &oci.LinuxCapabilities{
		Bounding: one.Capabilities, Effective: one.Capabilities, Permitted: one.Capabilities,
		Inheritable: none, Ambient: none,
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(2)
}
