"""A little of every kind of load: people who sign up, sign in rightly and wrongly, read, change, follow, and ask for nonsense."""

import base64
import http.client
import json
import secrets
import socket
import struct
import threading
import uuid


class Person:
    """Whoever has an account, at one node."""

    def __init__(self, address):
        self.address = address
        self.email = f"{secrets.token_hex(8)}@example.com"
        self.password = secrets.token_hex(8)
        self.token = self.ask("POST", "/api/v1/auth/register", {"email": self.email, "password": self.password})["access_token"]

    def ask(self, method, path, body=None, address=None):
        """The document that is answered, whatever the status is."""
        connection = http.client.HTTPConnection(address or self.address, timeout=20)
        headers = {"Content-Type": "application/json"}
        if getattr(self, "token", None):
            headers["Authorization"] = f"Bearer {self.token}"
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        text = connection.getresponse().read()
        connection.close()
        try:
            return json.loads(text)
        except ValueError:
            return text

    def sign_in(self, password):
        return self.ask("POST", "/api/v1/auth/login", {"email": self.email, "password": password})


class Socket:
    """A WebSocket that follows the feed of its person, and answers heartbeats."""

    def __init__(self, person, address):
        host, port = address.split(":")
        self.stream = socket.create_connection((host, int(port)), timeout=20)
        head = (
            "GET /api/v1/socket HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: taskflow.v1.json\r\nAuthorization: Bearer {}\r\n\r\n"
        )
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.stream.sendall(head.format(address, key, person.token).encode())
        self.reader = self.stream.makefile("rb")
        status = self.reader.readline()
        if b" 101 " not in status:
            raise ConnectionError(status.decode())
        while self.reader.readline().strip():
            pass
        self.send({"hello": {"protocol": {"min": 1, "max": 1}, "follow": [{}]}})

    def send(self, document):
        data = json.dumps(document).encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        # A mask of zeros is a mask.
        self.stream.sendall(b"\x81" + length + bytes(4) + data)

    def receive(self):
        """The next message; `None` when the server closes."""
        first, second = self.reader.read(2)
        length = second & 0x7F
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(self.reader.read(size), "big")
        data = self.reader.read(length)
        if first & 0x0F == 8:
            return None
        message = json.loads(data) if first & 0x0F == 1 else {}
        if "heartbeat" in message:
            self.send({"heartbeat": {}})
        return message

    def close(self):
        # The reader holds the descriptor as well.
        self.reader.close()
        self.stream.close()


class Load:
    """Goes on, at all of the addresses that are left, until it is stopped."""

    def __init__(self, addresses, people=3):
        self.addresses = list(addresses)
        self.stopped = threading.Event()
        self.problems = []
        # Followers at one node, writers at the next: in a cluster what they do goes over Redis.
        self.people = [Person(self.addresses[i % len(self.addresses)]) for i in range(people)]
        self.threads = []
        for i, person in enumerate(self.people):
            for offset in range(len(self.addresses)):
                self.start(self.follow, person, offset)
            self.start(self.write, person, i + 1)
            self.start(self.read, person, i)
        self.start(self.knock)

    def start(self, what, *arguments):
        def run():
            while not self.stopped.is_set():
                try:
                    what(*arguments)
                except (OSError, ValueError, http.client.HTTPException) as error:
                    # A node was stopped: whoever was there goes elsewhere.
                    self.problems.append(f"{what.__name__}: {error!r}")
                    self.stopped.wait(0.2)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def at(self, number):
        return self.addresses[number % len(self.addresses)]

    def follow(self, person, offset):
        follower = Socket(person, self.at(offset))
        try:
            # Not for ever: who comes back catches up.
            for _ in range(100):
                if self.stopped.is_set() or follower.receive() is None:
                    break
        finally:
            follower.close()

    def write(self, person, number):
        address = self.at(number)
        task = person.ask("POST", "/api/v1/tasks", {"title": "Buy milk"}, address)["id"]
        person.ask("POST", f"/api/v1/tasks/{task}/complete", {}, address)
        operation = {"id": str(uuid.uuid4()), "command": {"task_patch": {"task": task, "set": {"title": "Buy oat milk"}}}}
        person.ask("POST", "/api/v1/operations", {"operations": [operation]}, address)
        # Of a version that is long gone.
        person.ask("POST", "/api/v1/operations", {"operations": [operation | {"id": str(uuid.uuid4()), "base": 1}]}, address)
        self.stopped.wait(0.1)

    def read(self, person, number):
        for path in ["tasks", "lists", "labels", "settings", "statistics", "activity", "export", "sessions", "snapshot", "changes", "nothing"]:
            person.ask("GET", f"/api/v1/{path}", address=self.at(number))
            self.stopped.wait(0.05)

    def knock(self):
        """New people, wrong passwords, and a WebSocket that says nothing that can be understood."""
        address = self.at(secrets.randbelow(8))
        person = Person(address)
        person.sign_in("wrong password")
        person.sign_in(person.password)
        stranger = Socket(person, address)
        stranger.send({"nonsense": {}})
        stranger.close()
        person.ask("POST", "/api/v1/auth/logout", {"everywhere": True})
        self.stopped.wait(0.5)

    def leave(self, address):
        self.addresses = [each for each in self.addresses if each != address]

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(timeout=5)
