package localcluster

import (
	"context"
	"fmt"
	"io"
	"strings"

	"drover/internal/answer"
	droverv1 "drover/proto/drover/v1"
)

// question is what a new cluster asks itself; the demo model knows stories.
const question = "Tell me a story about a fox."

// Introduce prints where a cluster is, lets it answer one question, and says what
// to do next. A model without a chat template is not asked.
func Introduce(ctx context.Context, w io.Writer, c *Cluster) error {
	client := droverv1.NewCoordinatorServiceClient(c.Conn)
	d, err := client.Describe(ctx, &droverv1.DescribeRequest{})
	if err != nil {
		return err
	}
	layers := fmt.Sprintf("%d layers, %d of them with %d experts each", d.LayerCount,
		len(d.MoeLayers), d.ExpertsPerLayer)
	if len(d.MoeLayers) == 0 {
		layers = fmt.Sprintf("%d dense layers", d.LayerCount)
	}
	fmt.Fprintf(w, "drover serves %s (%s, mode %s): %s\n", d.Model, d.Architecture, d.NumericMode,
		layers)
	var endpoints []string
	admin := "http"
	if c.identities != (identities{}) && len(c.Coordinators) > 1 {
		admin = "https"
	}
	for _, e := range c.Coordinators {
		fmt.Fprintf(w, "  gRPC  %s\n  HTTP  http://%s/v1\n  admin %s://%s/metrics\n", e.GRPC, e.HTTP,
			admin, e.Admin)
		endpoints = append(endpoints, e.GRPC)
	}
	fmt.Fprintf(w, "  etcd  %s\n  %d expert nodes\n\n", c.Etcd, c.Nodes)
	if !d.HasChatTemplate {
		fmt.Fprintln(w, "The model has no chat template: it answers prompts of text or token ids "+
			"over gRPC.\nCtrl-C ends the cluster.")
		return nil
	}
	if err := c.ask(ctx, w, client); err != nil {
		return err
	}
	fmt.Fprintf(w, "Try it from another terminal:\n"+
		"  drover run --endpoint %s \"Translate to French: The cat sees the blue key.\"\n"+
		"  drover nodes --endpoint %s\n"+
		"  curl http://%s/v1/chat/completions -H 'Content-Type: application/json' "+
		"-d '{\"messages\":[{\"role\":\"user\",\"content\":\"What is the capital of Italy?\"}]}'\n"+
		"Ctrl-C ends the cluster.\n", strings.Join(endpoints, ","), c.GRPC, c.HTTP)
	return nil
}

// ask prints the answer to one question, its rate, and how many nodes took part.
func (c *Cluster) ask(ctx context.Context, w io.Writer,
	client droverv1.CoordinatorServiceClient) error {
	before, err := c.rows(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "> %s\n", question)
	got, err := answer.Stream(ctx, client, answer.Chat(question),
		func(text string) { _, _ = io.WriteString(w, text) })
	fmt.Fprintln(w)
	if err != nil {
		return err
	}
	after, err := c.rows(ctx)
	if err != nil {
		return err
	}
	served := 0
	for id, n := range after {
		if n > before[id] {
			served++
		}
	}
	fmt.Fprintf(w, "  (%d tokens at %.0f tokens/s; %d of %d expert nodes served it)\n\n",
		len(got.Tokens), got.TokensPerSecond(), served, len(after))
	return nil
}

// rows returns the rows that each node has computed.
func (c *Cluster) rows(ctx context.Context) (map[string]uint64, error) {
	r, err := droverv1.NewClusterServiceClient(c.Conn).ListNodes(ctx, &droverv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	rows := map[string]uint64{}
	for _, n := range r.Nodes {
		rows[n.Id] = n.RowsDispatched
	}
	return rows, nil
}
