//go:build tools

package main

// Helm is built from this module, too, so that go.mod pins it.
import _ "helm.sh/helm/v3/cmd/helm"
