// A go-spiffe program for the tests: it speaks to the agent and to servers and clients of the verifier as any
// program built on go-spiffe does. It prints one JSON object a line.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: fetch AUDIENCE | watch | serve ALLOWED-ID | get URL EXPECTED-ID")
	}
	switch {
	case args[0] == "fetch" && len(args) == 2:
		return fetch(ctx, args[1])
	case args[0] == "watch" && len(args) == 1:
		return watch(ctx)
	case args[0] == "serve" && len(args) == 2:
		return serve(ctx, args[1])
	case args[0] == "get" && len(args) == 3:
		return get(ctx, args[1], args[2])
	}
	return fmt.Errorf("unknown arguments %q", args)
}

type object map[string]any

var printing sync.Mutex

func show(what object) {
	printing.Lock()
	defer printing.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(what); err != nil {
		panic(err)
	}
}

func x509Object(event string, update *workloadapi.X509Context) object {
	var ids, serials []string
	for _, svid := range update.SVIDs {
		ids = append(ids, svid.ID.String())
		serials = append(serials, svid.Certificates[0].SerialNumber.String())
	}
	var domains []string
	for _, bundle := range update.Bundles.Bundles() {
		domains = append(domains, bundle.TrustDomain().Name())
	}
	sort.Strings(domains)
	return object{
		"event": event, "ids": ids, "serials": serials, "trust_domains": domains,
		"not_after": update.DefaultSVID().Certificates[0].NotAfter.Unix(),
	}
}

func jwtBundlesObject(event string, set *jwtbundle.Set) object {
	keys := object{}
	for _, bundle := range set.Bundles() {
		var ids []string
		for id := range bundle.JWTAuthorities() {
			ids = append(ids, id)
		}
		sort.Strings(ids)
		keys[bundle.TrustDomain().Name()] = ids
	}
	return object{"event": event, "keys": keys}
}

// fetch asks for everything once, and checks the token in both ways there are.
func fetch(ctx context.Context, audience string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()

	x509, err := client.FetchX509Context(ctx)
	if err != nil {
		return fmt.Errorf("X.509 context: %w", err)
	}
	show(x509Object("x509", x509))
	bundles, err := client.FetchX509Bundles(ctx)
	if err != nil {
		return fmt.Errorf("X.509 bundles: %w", err)
	}
	show(object{"event": "x509-bundles", "trust_domains": bundles.Len()})
	keys, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return fmt.Errorf("JWT bundles: %w", err)
	}
	show(jwtBundlesObject("jwt-bundles", keys))
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return fmt.Errorf("JWT-SVID: %w", err)
	}
	parsed, err := jwtsvid.ParseAndValidate(svid.Marshal(), keys, []string{audience})
	if err != nil {
		return fmt.Errorf("checking the JWT-SVID here: %w", err)
	}
	remote, err := client.ValidateJWTSVID(ctx, svid.Marshal(), audience)
	if err != nil {
		return fmt.Errorf("having the agent check the JWT-SVID: %w", err)
	}
	_, wrong := client.ValidateJWTSVID(ctx, svid.Marshal(), audience+"-other")
	show(object{
		"event": "jwt", "id": parsed.ID.String(), "agent_says": remote.ID.String(),
		"audience": parsed.Audience, "wrong_audience_refused": wrong != nil,
	})
	return nil
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(update *workloadapi.X509Context) { show(x509Object("x509", update)) }
func (watcher) OnX509ContextWatchError(err error) {
	show(object{"event": "x509-error", "error": err.Error()})
}
func (watcher) OnJWTBundlesUpdate(set *jwtbundle.Set) { show(jwtBundlesObject("jwt-bundles", set)) }
func (watcher) OnJWTBundlesWatchError(err error) {
	show(object{"event": "jwt-error", "error": err.Error()})
}

// watch prints every update until it is stopped.
func watch(ctx context.Context) error {
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	var watching sync.WaitGroup
	watching.Add(2)
	go func() { defer watching.Done(); _ = client.WatchX509Context(ctx, watcher{}) }()
	go func() { defer watching.Done(); _ = client.WatchJWTBundles(ctx, watcher{}) }()
	watching.Wait()
	return nil
}

// serve answers the one allowed caller over mutual TLS.
func serve(ctx context.Context, allowed string) error {
	id, err := spiffeid.FromString(allowed)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		TLSConfig:         tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(id)),
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			peer, err := spiffeid.FromURI(r.TLS.PeerCertificates[0].URIs[0])
			if err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			fmt.Fprintf(w, "hello %s\n", peer)
		}),
	}
	go func() { <-ctx.Done(); _ = server.Close() }()
	fmt.Printf("ready listen=%s\n", listener.Addr())
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// get calls the one expected server over mutual TLS, and is offered no resumption on a second connection.
func get(ctx context.Context, url, expected string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	id, err := spiffeid.FromString(expected)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	for range 2 {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
		response.Body.Close()
		if err != nil {
			return err
		}
		show(object{
			"event": "answer", "status": response.StatusCode, "body": string(body),
			"resumed": response.TLS.DidResume, "server": response.TLS.PeerCertificates[0].URIs[0].String(),
		})
	}
	return nil
}
