"""Requests for many chats by the pool of connections of Python's requests.

Prints what tests/peers/README.md says of pools. With --files, each chat's file goes down and up again.
"""

import argparse
import collections
import concurrent.futures
import hashlib
import json

import requests
import requests.adapters


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="http://HOST:PORT")
    parser.add_argument("--prefix", default="chat")
    parser.add_argument("--chats", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sockets", type=int, default=4)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--body", type=int, default=100, help="bytes of each POST")
    parser.add_argument("--leave", metavar="MS", help="let servers end connections within so many ms after an answer")
    parser.add_argument("--cookies", type=int, metavar="BYTES",
                        help="send so many bytes of cookies, and behind them the chat in a header")
    parser.add_argument("--files", type=int, default=0, metavar="MB")
    return parser.parse_args()


def main():
    args = arguments()
    session = requests.Session()
    session.trust_env = False
    pool = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=args.sockets, pool_block=True)
    session.mount("http://", pool)
    errors = collections.Counter()

    def headers(chat):
        return {"Cookie": "c=" + "x" * args.cookies, "X-Chat": chat} if args.cookies else {}

    leave = {"leave": args.leave} if args.leave else {}

    def ask(number):
        chat, turn = f"{args.prefix}-{number % args.chats}", number // args.chats
        try:
            if args.files:
                return file(chat, turn)
            if turn % 2 == 0:
                answer = session.get(f"{args.url}/whoami", params={"chat": chat, **leave}, timeout=60,
                                     headers=headers(chat))
            else:
                answer = session.post(f"{args.url}/do", params={"chat": chat, "id": f"{chat}/{turn}", **leave},
                                      data=b"x" * args.body, timeout=60, headers=headers(chat))
            answer.raise_for_status()
            return answer.json()["chat"] == chat
        except requests.RequestException as error:
            errors[type(error).__name__ + ": " + str(error).split(" at 0x")[0][:160]] += 1
            return False

    def file(chat, turn):
        answer = session.get(f"{args.url}/file", params={"chat": chat, "mb": args.files}, timeout=120)
        answer.raise_for_status()
        down = hashlib.sha256(answer.content).hexdigest()
        if down != answer.headers["roost-sha256"]:
            errors["down: another file"] += 1
            return False
        answer = session.post(f"{args.url}/do", params={"chat": chat, "id": f"{chat}/{turn}"},
                              data=answer.content, timeout=120)
        answer.raise_for_status()
        if answer.json()["sha256"] != down:
            errors["up: another file"] += 1
            return False
        return True

    asked = args.chats * args.rounds
    with concurrent.futures.ThreadPoolExecutor(args.workers) as workers:
        answered = sum(workers.map(ask, range(asked)))
    pools = session.get_adapter(args.url).poolmanager.pools
    made = sum(pools[key].num_connections for key in pools.keys())
    said = [f"{args.prefix}-{chat}/{turn}" for turn in range(args.rounds) for chat in range(args.chats)
            if args.files or turn % 2 == 1]
    print(json.dumps({"clients": asked, "reached": answered, "connections": made, "said": said,
                      "errors": errors}))


main()
