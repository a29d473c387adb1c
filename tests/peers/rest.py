"""Requests one after the other over one connection, with Python's http.client.

Prints a JSON array with one object for each: status, replica, body, and the local port, which tells
one connection from two. "UPGRADE /ws?chat=ID" opens a WebSocket and can only be the last.
"""

import argparse
import base64
import http.client
import json
import os


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", nargs=2, metavar=("HOST", "PORT"), required=True)
    parser.add_argument("requests", nargs="+", metavar="REQUEST",
                        help="'GET /PATH', 'POST /PATH TEXT' or 'UPGRADE /PATH'")
    return parser.parse_args()


def main():
    args = arguments()
    host, port = args.address
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    answers = []
    for request in args.requests:
        method, path, *text = request.split(" ", 2)
        headers = {}
        if method == "UPGRADE":
            key = base64.b64encode(os.urandom(16)).decode()
            headers = {"Connection": "Upgrade", "Upgrade": "websocket",
                       "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
            method = "GET"
        connection.request(method, path, body=text[0] if text else None, headers=headers)
        # Before the answer: one that ends the connection takes the socket away.
        local = connection.sock.getsockname()[1]
        answer = connection.getresponse()
        body = "" if answer.status == 101 else answer.read().decode()
        answers.append({"status": answer.status, "replica": answer.getheader("roost-replica"),
                        "body": body, "port": local})
    print(json.dumps(answers))


main()
