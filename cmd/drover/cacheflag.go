package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"drover/internal/role"
)

// noCache is the value of --cache that keeps nothing.
const noCache = "off"

// cacheFlag adds --cache; when says with what it goes.
func cacheFlag(c *cobra.Command, dir *string, when string) {
	c.Flags().StringVar(dir, "cache", "",
		when+"folder of packed weights, or off (default: drover/packed in the user's cache folder)")
}

// cacheDir returns the folder of packed weights, or nothing for none.
func cacheDir(flag string) string {
	switch flag {
	case noCache:
		return ""
	case "":
		user, err := os.UserCacheDir()
		if err != nil {
			return "" // no home folder: weights are packed in memory
		}
		return filepath.Join(user, "drover", "packed")
	}
	return flag
}

// weights is how a command loads weights in this process: with a bar on a terminal.
func weights(g *globals, cache string) (w role.Weights, clear func()) {
	w = role.Weights{Cache: cacheDir(cache), Log: warnings(g)}
	w.Progress, clear = progress(g, "MB of weights")
	return w, clear
}
