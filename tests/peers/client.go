// Chat tabs with Go's gorilla/websocket: do all of them hear each other?
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

type message struct {
	Type    string `json:"type"`
	Replica string `json:"replica,omitempty"`
	Text    string `json:"text,omitempty"`
}

func main() {
	url := flag.String("url", "", "for example ws://127.0.0.1:8080/ws?chat=42")
	tabs := flag.Int("tabs", 3, "connections to open")
	say := flag.String("say", "hello", "tab I says 'TEXT I'")
	limit := flag.Float64("limit", 5, "seconds for all messages to arrive everywhere")
	address := flag.String("address", "", "what the URL's name means [ask DNS]")
	ca := flag.String("ca", "", "for wss: believe the authorities in this file")
	flag.Parse()

	dialer := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	if *address != "" {
		dialer.NetDial = func(network, where string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(where)
			check(err)
			return net.Dial(network, net.JoinHostPort(*address, port))
		}
	}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		check(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		dialer.TLSClientConfig = &tls.Config{RootCAs: roots}
	}

	var sockets []*websocket.Conn
	var replicas []string
	for len(sockets) < *tabs {
		socket, _, err := dialer.Dial(*url, nil)
		check(err)
		check(socket.SetReadDeadline(time.Now().Add(10 * time.Second)))
		var hello message
		check(socket.ReadJSON(&hello))
		sockets, replicas = append(sockets, socket), append(replicas, hello.Replica)
	}
	for number, socket := range sockets {
		check(socket.WriteJSON(message{Type: "say", Text: fmt.Sprintf("%s %d", *say, number)}))
	}
	end := time.Now().Add(time.Duration(*limit * float64(time.Second)))
	received, whole := make([]int, *tabs), true
	var listening sync.WaitGroup
	for number, socket := range sockets {
		listening.Add(1)
		go func(number int, socket *websocket.Conn) {
			defer listening.Done()
			check(socket.SetReadDeadline(end))
			received[number] = count(socket, *say, *tabs)
		}(number, socket)
	}
	listening.Wait()
	for _, heard := range received {
		whole = whole && heard == *tabs
	}
	report, err := json.Marshal(map[string]any{"replicas": replicas, "received": received})
	check(err)
	fmt.Println(string(report))
	for _, socket := range sockets {
		bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		check(socket.WriteControl(websocket.CloseMessage, bye, time.Now().Add(time.Second)))
		socket.SetReadDeadline(time.Now().Add(time.Second))
		for socket.ReadJSON(&message{}) == nil {
			// Until its close frame comes.
		}
		socket.Close()
	}
	if !whole {
		os.Exit(1)
	}
}

// How many of the tabs' messages are heard before the deadline.
func count(socket *websocket.Conn, say string, tabs int) int {
	missing := map[string]bool{}
	for number := 0; number < tabs; number++ {
		missing[fmt.Sprintf("%s %d", say, number)] = true
	}
	var heard message
	for len(missing) > 0 && socket.ReadJSON(&heard) == nil {
		if heard.Type == "message" {
			delete(missing, heard.Text)
		}
	}
	return tabs - len(missing)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
