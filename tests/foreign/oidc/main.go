// An OpenID Connect provider for the tests: that of zitadel/oidc with its example storage and login page, whose every
// answer it gives. Only what a provider's administrator sets is set here: where it listens and with which certificate,
// who its users are, and its clients.
//
// It says `ready issuer=URL` when it serves, and then reads clients from standard input, one a line: `ID REDIRECT-URI`.
// Each is a public client, so that PKCE is its only proof; for each it answers `client ID`.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "the address")
	certificate := flag.String("cert", "", "the certificate, a PEM file")
	key := flag.String("key", "", "its private key, a PEM file")
	users := flag.String("users", "", "the users, a JSON file as zitadel/oidc's example reads it")
	flag.Parse()
	if err := run(*listen, *certificate, *key, *users); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(listen, certificate, key, usersFile string) error {
	users, err := storage.StoreFromFile(usersFile)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return err
	}
	issuer := "https://localhost:" + port
	provider := exampleop.SetupServer(issuer, &directory{storage.NewStorage(users), users}, slog.New(slog.NewTextHandler(io.Discard, nil)), false)
	fmt.Println("ready issuer=" + issuer)
	go registerClients(os.Stdin)
	server := &http.Server{Handler: provider}
	if err := server.ServeTLS(listener, certificate, key); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func registerClients(from io.Reader) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		id, redirect, _ := strings.Cut(lines.Text(), " ")
		storage.RegisterClients(storage.NativeClient(id, redirect))
		fmt.Println("client " + id)
	}
}

// The example's storage, with the claim `groups` in ID tokens, as a company's directory would have it: administrators are in `admins`,
// everybody is in `staff`.
type directory struct {
	*storage.Storage
	users storage.UserStore
}

func (d *directory) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, token op.IDTokenRequest, scopes []string) error {
	if err := d.Storage.SetUserinfoFromRequest(ctx, info, token, scopes); err != nil {
		return err
	}
	groups := []string{"staff"}
	if user := d.users.GetUserByID(token.GetSubject()); user != nil && user.IsAdmin {
		groups = append(groups, "admins")
	}
	info.AppendClaims("groups", groups)
	return nil
}
