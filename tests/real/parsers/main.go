// Command parsers says what runtimes that are not installed here understand of a file that `p2pd configure` wrote: by
// their own code. `parsers buildkit FILE` is buildkitd's reading of buildkitd.toml, `parsers k3s FILE` is that of k3s and
// RKE2 of registries.yaml. It prints the endpoints of each registry as JSON.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/rancher/wharfie/pkg/registries"
)

type entry struct {
	Endpoints []string          `json:"endpoints"`
	PlainHTTP bool              `json:"plain_http"`
	Rewrites  map[string]string `json:"rewrites"`
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: parsers buildkit|k3s FILE"))
	}
	read := map[string]func(string) (map[string]entry, error){"buildkit": ofBuildkit, "k3s": ofK3s}[os.Args[1]]
	if _, err := os.Stat(os.Args[2]); err != nil || read == nil {
		fail(fmt.Errorf("no such file, or no such runtime: %v", os.Args[1:]))
	}
	found, err := read(os.Args[2])
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fail(err)
	}
}

func ofBuildkit(file string) (map[string]entry, error) {
	read, err := config.LoadFile(file)
	if err != nil {
		return nil, err
	}
	found := map[string]entry{}
	for name, each := range read.Registries {
		found[name] = entry{Endpoints: each.Mirrors, PlainHTTP: each.PlainHTTP != nil && *each.PlainHTTP}
	}
	return found, nil
}

func ofK3s(file string) (map[string]entry, error) {
	read, err := registries.GetPrivateRegistries(file)
	if err != nil {
		return nil, err
	}
	found := map[string]entry{}
	for name, each := range read.Registry.Mirrors {
		found[name] = entry{Endpoints: each.Endpoints, Rewrites: each.Rewrites}
	}
	return found, nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
