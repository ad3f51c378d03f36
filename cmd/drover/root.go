package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// globals is what all commands share.
type globals struct {
	in       io.Reader
	out, err io.Writer
}

// defaultEndpoint is where `drover up` listens, unless the port is taken.
const defaultEndpoint = "127.0.0.1:7070"

func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "drover",
		Short: "Serve mixture-of-experts models from a pool of machines",
		Long: `Drover serves mixture-of-experts models from a pool of machines. A coordinator runs
attention, the KV cache and the gate; expert nodes hold slices of the experts.

Exit codes: 0 done, 1 a check failed or the input was refused, 2 wrong usage,
130 interrupted.`,
		Example: `  drover up                                  a whole cluster on this machine
  drover run "Tell me a story about a fox."  ask it
  drover nodes                               look at it`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		Version:           version,
		Args:              noCommand,
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(g.in)
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate(versionLine())
	root.SetHelpCommand(newHelpCommand())
	root.AddCommand(newUpCommand(g), newCoordinatorCommand(g), newExpertNodeCommand(g),
		newEtcdCommand(g), newRunCommand(g), newChatCommand(g), newVerifyCommand(g),
		newEvalCommand(g), newBenchCommand(g), newNodesCommand(g), newDrainCommand(g),
		newPlacementCommand(g), newRebalanceCommand(g), newInspectCommand(g), newPullCommand(g),
		newCacheCommand(g), newCertsCommand(g), newKeysCommand(g), newHealthCommand(g),
		newDevicesCommand(g), newVersionCommand(g))
	return root
}

// newHelpCommand is cobra's but for what it says of a command that there is not.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Long:    "Help shows what `drover COMMAND --help` shows.\n\nExit codes: 0 done, 2 wrong usage.",
		Example: "  drover help up\n  drover help bench serve",
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err == nil {
				err = noCommand(of, rest)
			}
			if err != nil {
				return err
			}
			of.InitDefaultHelpFlag()
			of.InitDefaultVersionFlag()
			return of.Help()
		},
	}
}

// flagError is wrong usage; flags that other programs have are told what they are called here.
func flagError(c *cobra.Command, err error) error {
	switch text := err.Error(); {
	case text == "unknown flag: --insecure":
		err = fmt.Errorf("%w; --plaintext is plain text, on loopback only, and --tls DIR encrypts", err)
	case text == "unknown flag: --tls" && c.Name() == "up":
		err = fmt.Errorf("%w; up uses TLS unless --plaintext is given", err)
	}
	return usageError{err}
}

// noArgs refuses arguments as wrong usage.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unexpected argument %q", args[0])
	}
	return nil
}

// noCommand refuses arguments of a command that has others below it: they are no command's name.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	why := ""
	c.SuggestionsMinimumDistance = 2 // letters
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		why = "; did you mean " + strings.Join(like, " or ") + "?"
	}
	return usagef("unknown command %q for %q%s", args[0], c.CommandPath(), why)
}

// endpointFlag adds --endpoint, whose default comes from DROVER_ENDPOINT.
func endpointFlag(c *cobra.Command, endpoint *string) {
	c.Flags().StringVar(endpoint, "endpoint", "",
		"coordinator's gRPC address, or several separated by commas (default $DROVER_ENDPOINT, "+
			"then "+defaultEndpoint+")")
}

// orDefaultEndpoint fills in an endpoint that was not given.
func orDefaultEndpoint(endpoint string) string {
	if endpoint != "" {
		return endpoint
	}
	if e := os.Getenv("DROVER_ENDPOINT"); e != "" {
		return e
	}
	return defaultEndpoint
}
