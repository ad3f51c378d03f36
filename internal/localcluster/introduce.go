package localcluster

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode"

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
	for _, e := range c.Coordinators {
		fmt.Fprintf(w, "  gRPC  %s\n  HTTP  %s/v1\n  admin %s/metrics\n", e.GRPC, c.url(e.HTTP),
			c.url(e.Admin))
	}
	fmt.Fprintf(w, "  etcd  %s\n", c.Etcd)
	if c.Authority == "" {
		fmt.Fprintf(w, "  %s; all hops are plain text\n\n", expertNodes(c.Nodes))
	} else {
		fmt.Fprintf(w, "  CA    %s\n  %s; all hops are mutual TLS, clients are served by TLS\n\n",
			c.Authority, expertNodes(c.Nodes))
	}
	if !d.HasChatTemplate {
		fmt.Fprintln(w, "The model has no chat template: it answers prompts of text or token ids "+
			"over gRPC.\nCtrl-C ends the cluster.")
		return nil
	}
	if err := c.ask(ctx, w, client); err != nil {
		return err
	}
	c.suggest(w, d.Model)
	return nil
}

// expertNodes counts them in words.
func expertNodes(n int) string {
	if n == 1 {
		return "1 expert node"
	}
	return fmt.Sprintf("%d expert nodes", n)
}

// url is an address that is served by HTTP.
func (c *Cluster) url(address string) string {
	if c.Authority == "" {
		return "http://" + address
	}
	return "https://" + address
}

// suggest says how to ask the cluster, in lines that can be copied.
func (c *Cluster) suggest(w io.Writer, model string) {
	var endpoints []string
	for _, e := range c.Coordinators {
		endpoints = append(endpoints, e.GRPC)
	}
	how, curl, env := "", "", ""
	switch {
	case c.Authority == "":
		how = " --plaintext"
	case !c.Known:
		how = " --ca " + quoted(c.Authority)
	}
	if c.Authority != "" {
		curl, env = " --cacert "+quoted(c.Authority), "SSL_CERT_FILE="+quoted(c.Authority)+" "
	}
	const ask = `{"role":"user","content":"What is the capital of Italy?"}`
	fmt.Fprintf(w, "Try it from another terminal:\n"+
		"  drover run%s --endpoint %s \"Translate to French: The cat sees the blue key.\"\n"+
		"  drover nodes%s --endpoint %s\n", how, strings.Join(endpoints, ","), how, c.GRPC)
	fmt.Fprintf(w, "  curl%s %s/v1/chat/completions -H 'Content-Type: application/json' "+
		"-d '{\"messages\":[%s]}'\n", curl, c.url(c.HTTP), ask)
	fmt.Fprintf(w, "  %spython3 -c 'import openai; print(openai.OpenAI(base_url=\"%s/v1\", "+
		"api_key=\"none\").chat.completions.create(model=\"%s\", messages=[%s])"+
		".choices[0].message.content)'\n", env, c.url(c.HTTP), model, ask)
	fmt.Fprintln(w, "Ctrl-C ends the cluster.")
}

// quoted is a path as a word of a shell.
func quoted(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+=:,", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
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
	fmt.Fprintf(w, "  (%d tokens at %.0f tokens/s; %d of %s served it)\n\n",
		len(got.Tokens), got.TokensPerSecond(), served, expertNodes(len(after)))
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
