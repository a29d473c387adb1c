// Requests for many chats by the pool of connections of Go's net/http.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"
)

func main() {
	url := flag.String("url", "", "http://HOST:PORT")
	prefix := flag.String("prefix", "chat", "what chats are called by")
	chats := flag.Int("chats", 20, "how many chats")
	rounds := flag.Int("rounds", 6, "requests for each")
	sockets := flag.Int("sockets", 4, "connections at the same time")
	workers := flag.Int("workers", 8, "requests at the same time")
	body := flag.Int("body", 100, "bytes of each POST")
	flag.Parse()

	client := &http.Client{
		Timeout:   60 * time.Second,
		Transport: &http.Transport{MaxConnsPerHost: *sockets, MaxIdleConnsPerHost: *sockets},
	}
	var lock sync.Mutex
	answered, connections, errors, said := 0, 0, map[string]int{}, []string{}
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if !got.Reused {
			lock.Lock()
			connections++
			lock.Unlock()
		}
	}}
	ask := func(number int) error {
		chat, turn := fmt.Sprintf("%s-%d", *prefix, number%*chats), number / *chats
		request, err := http.NewRequest("GET", *url+"/whoami?chat="+chat, nil)
		if turn%2 == 1 {
			where := fmt.Sprintf("%s/do?chat=%s&id=%s/%d", *url, chat, chat, turn)
			request, err = http.NewRequest("POST", where, bytes.NewReader(bytes.Repeat([]byte("x"), *body)))
		}
		if err != nil {
			return err
		}
		answer, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
		if err != nil {
			// Without the addresses, which are others each time.
			cause := strings.Split(err.Error(), ": ")
			return fmt.Errorf("%s: %s", request.Method, cause[len(cause)-1])
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		if answer.StatusCode != 200 {
			return fmt.Errorf("%s: %s", request.Method, answer.Status)
		}
		var told struct {
			Chat string `json:"chat"`
		}
		if err := json.Unmarshal(text, &told); err != nil {
			return err
		}
		if told.Chat != chat {
			return fmt.Errorf("%s for %s is answered for %s", request.Method, chat, told.Chat)
		}
		return nil
	}
	numbers := make(chan int)
	var working sync.WaitGroup
	for worker := 0; worker < *workers; worker++ {
		working.Add(1)
		go func() {
			defer working.Done()
			for number := range numbers {
				err := ask(number)
				lock.Lock()
				if err == nil {
					answered++
				} else {
					errors[err.Error()]++
				}
				lock.Unlock()
			}
		}()
	}
	for number := 0; number < *chats**rounds; number++ {
		if turn := number / *chats; turn%2 == 1 {
			said = append(said, fmt.Sprintf("%s-%d/%d", *prefix, number%*chats, turn))
		}
		numbers <- number
	}
	close(numbers)
	working.Wait()
	report, err := json.Marshal(map[string]any{
		"clients": *chats * *rounds, "reached": answered, "connections": connections, "said": said,
		"errors": errors,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println(string(report))
}
