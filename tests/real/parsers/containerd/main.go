// Command containerd says what containerd 2 understands of files that `p2pd configure` wrote below ROOT: by its own code,
// the directory of hosts in config.toml, and the hosts that it asks for each REGISTRY, in their order. It prints JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd/server/config"
	hosts "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

// The tables of containerd's plugins that have the directory: since version 3, and in version 2.
var plugins = []string{"io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"}

// What containerd 2 has where config.toml says nothing.
const standard = "/etc/containerd/certs.d:/etc/docker/certs.d"

type images struct {
	Registry struct {
		ConfigPath string `toml:"config_path"`
	} `toml:"registry"`
}

type understood struct {
	ConfigPath string              `json:"config_path"`
	Hosts      map[string][]string `json:"hosts"`
}

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: containerd ROOT REGISTRY..."))
	}
	ctx, root := context.Background(), os.Args[1]
	path, err := configPath(ctx, filepath.Join(root, "etc/containerd/config.toml"))
	if err != nil {
		fail(err)
	}
	found := understood{ConfigPath: path, Hosts: map[string][]string{}}
	var directories []func(string) (string, error)
	for _, each := range filepath.SplitList(path) {
		directories = append(directories, hosts.HostDirFromRoot(filepath.Join(root, each)))
	}
	for _, registry := range os.Args[2:] {
		asked, err := hosts.ConfigureHosts(ctx, hosts.HostOptions{HostDir: first(directories)})(registry)
		if err != nil {
			fail(err)
		}
		for _, each := range asked {
			found.Hosts[registry] = append(found.Hosts[registry], each.Scheme+"://"+each.Host+each.Path)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fail(err)
	}
}

// configPath is the directories of hosts that the file names, or containerd's own.
func configPath(ctx context.Context, file string) (string, error) {
	if _, err := os.Stat(file); os.IsNotExist(err) {
		return standard, nil
	}
	var read config.Config
	if err := config.LoadConfig(ctx, file, &read); err != nil {
		return "", err
	}
	for _, plugin := range plugins {
		var table images
		if _, err := read.Decode(ctx, plugin, &table); err != nil {
			return "", err
		}
		if table.Registry.ConfigPath != "" {
			return table.Registry.ConfigPath, nil
		}
	}
	return standard, nil
}

// first looks into one directory after the other, as the plugin does.
func first(directories []func(string) (string, error)) func(string) (string, error) {
	return func(host string) (found string, err error) {
		for _, each := range directories {
			if found, err = each(host); err == nil || !errdefs.IsNotFound(err) {
				return found, err
			}
		}
		return "", err
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
