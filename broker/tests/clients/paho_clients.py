"""paho-mqtt through the broker: 3.1, 3.1.1 and 5.0, each QoS, and many clients at once.

Usage: paho_clients.py HOST PORT [tcp|websockets [CA_FILE]]; with a file the clients use TLS.
"""

import os
import selectors
import sys
import threading
import time
import unittest

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT = sys.argv[1], int(sys.argv[2])
TRANSPORT = sys.argv[3] if len(sys.argv) > 3 else "tcp"
CA_FILE = sys.argv[4] if len(sys.argv) > 4 else None
RUN = f"paho{os.getpid()}"
VERSIONS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}
PATIENCE_S = 60


def properties(kind, **values):
    """Properties of a packet type, by paho's names."""
    found = Properties(kind)
    for name, value in values.items():
        setattr(found, name, value)
    return found


class Peer:
    """A client with a thread of its own, whose events can be waited for."""

    def __init__(self, name, version=mqtt.MQTTv5, clean=True, will=None, expiry=None):
        options = {} if version == mqtt.MQTTv5 else {"clean_session": clean}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{RUN}-{name}",
            protocol=version,
            transport=TRANSPORT,
            **options,
        )
        if CA_FILE:
            self.client.tls_set(CA_FILE)
        self.changed = threading.Condition()
        self.messages, self.codes, self.acked = [], {}, set()
        self.connected = self.gone = None
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message
        self.client.on_subscribe = self.on_subscribe
        self.client.on_publish = self.on_publish
        if will is not None:
            self.client.will_set(*will)
        more = {}
        if version == mqtt.MQTTv5:
            more["clean_start"] = clean
            if expiry is not None:
                more["properties"] = properties(
                    PacketTypes.CONNECT, SessionExpiryInterval=expiry
                )
        self.client.connect(HOST, PORT, keepalive=60, **more)
        self.client.loop_start()
        self.wait(lambda: self.connected is not None, "CONNACK")
        reason = self.connected[1]
        assert not reason.is_failure, f"{name}: {reason}"

    def note(self, change):
        with self.changed:
            change()
            self.changed.notify_all()

    def wait(self, met, what):
        with self.changed:
            assert self.changed.wait_for(met, PATIENCE_S), f"no {what}; got {self.messages}"

    def on_connect(self, _client, _data, flags, reason, _properties):
        self.note(lambda: setattr(self, "connected", (flags, reason)))

    def on_disconnect(self, _client, _data, _flags, reason, _properties):
        self.note(lambda: setattr(self, "gone", reason))

    def on_message(self, _client, _data, message):
        self.note(lambda: self.messages.append(message))

    def on_subscribe(self, _client, _data, mid, reasons, _properties):
        self.note(lambda: self.codes.__setitem__(mid, reasons))

    def on_publish(self, _client, _data, mid, _reason, _properties):
        self.note(lambda: self.acked.add(mid))

    def subscribe(self, *args, **named):
        result, mid = self.client.subscribe(*args, **named)
        assert result == mqtt.MQTT_ERR_SUCCESS
        self.wait(lambda: mid in self.codes, "SUBACK")
        assert not any(code.is_failure for code in self.codes[mid]), self.codes[mid]

    def publish(self, *args, **named):
        info = self.client.publish(*args, **named)
        self.wait(lambda: info.mid in self.acked, "the end of a publish")

    def expect(self, count):
        self.wait(lambda: len(self.messages) >= count, f"{count} messages")
        assert len(self.messages) == count, [m.payload for m in self.messages]
        return self.messages

    def stop(self):
        self.client.disconnect()
        self.wait(lambda: self.gone is not None, "end")
        self.client.loop_stop()

    def kill(self):
        """Ends the connection without DISCONNECT."""
        self.client.loop_stop()
        self.client.socket().close()


class EveryVersion(unittest.TestCase):
    def each(self):
        for name, version in VERSIONS.items():
            with self.subTest(version=name):
                yield name, version

    def test_each_qos(self):
        for name, version in self.each():
            topic = f"{RUN}/qos/{name}"
            sub, pub = Peer("sub", version), Peer("pub", version)
            sub.subscribe(topic, 2)
            for qos in (0, 1, 2):
                pub.publish(topic, f"at {qos}", qos)
            got = [(m.payload.decode(), m.qos, m.topic) for m in sub.expect(3)]
            self.assertEqual(got, [(f"at {q}", q, topic) for q in (0, 1, 2)])
            sub.stop()
            pub.stop()

    def test_a_thousand_messages_in_order(self):
        for name, version in self.each():
            topic = f"{RUN}/order/{name}"
            sub, pub = Peer("sub", version), Peer("pub", version)
            sub.subscribe(topic, 2)
            for qos in (0, 1, 2):
                del sub.messages[:]
                for n in range(1000):
                    pub.client.publish(topic, str(n), qos)
                got = [int(m.payload) for m in sub.expect(1000)]
                self.assertEqual(got, list(range(1000)), f"QoS {qos}")
            sub.stop()
            pub.stop()

    def test_retained(self):
        for name, version in self.each():
            topic = f"{RUN}/kept/{name}"
            pub = Peer("pub", version)
            pub.publish(topic, "kept", 1, True)
            sub = Peer("sub", version)
            sub.subscribe(topic, 1)
            self.assertTrue(sub.expect(1)[0].retain)
            pub.publish(topic, b"", 1, True)
            self.assertFalse(sub.expect(2)[1].retain)
            late = Peer("late", version)
            late.subscribe(topic, 1)
            pub.publish(topic, "live", 1)
            self.assertEqual(late.expect(1)[0].payload, b"live")
            for peer in (pub, sub, late):
                peer.stop()

    def test_will(self):
        for name, version in self.each():
            topic = f"{RUN}/will/{name}"
            watcher = Peer("watcher", version)
            watcher.subscribe(topic, 1)
            Peer("polite", version, will=(topic, "not this", 1, False)).stop()
            Peer("dies", version, will=(topic, "will", 1, False)).kill()
            self.assertEqual(watcher.expect(1)[0].payload, b"will")
            watcher.stop()

    def test_a_session_waits(self):
        for name, version in self.each():
            topic = f"{RUN}/session/{name}"
            sub = Peer("stays", version, clean=False, expiry=600)
            sub.subscribe(topic, 2)
            sub.stop()
            pub = Peer("pub", version)
            for n in range(20):
                pub.publish(topic, str(n), 1 + n % 2)
            sub = Peer("stays", version, clean=False, expiry=600)
            if version != mqtt.MQTTv31:
                self.assertTrue(sub.connected[0].session_present)
            got = sorted(int(m.payload) for m in sub.expect(20))
            self.assertEqual(got, list(range(20)))
            sub.stop()
            pub.stop()
            Peer("stays", version).stop()

    def test_takeover(self):
        for _name, version in self.each():
            old = Peer("same", version)
            old.client.reconnect_delay_set(60, 60)
            new = Peer("same", version)
            old.wait(lambda: old.gone is not None, "end of the old connection")
            # The code itself is for other tests: paho reads it only where properties follow.
            old.client.loop_stop()
            new.stop()


class Five(unittest.TestCase):
    def test_properties_go_through(self):
        topic = f"{RUN}/properties"
        sub, pub = Peer("sub"), Peer("pub")
        sub.subscribe(topic, options=SubscribeOptions(qos=2))
        sent = properties(
            PacketTypes.PUBLISH,
            ContentType="text/plain",
            ResponseTopic=f"{RUN}/answer",
            CorrelationData=b"\x00\x01",
            PayloadFormatIndicator=1,
            MessageExpiryInterval=60,
            UserProperty=[("a", "1"), ("b", "2"), ("a", "3")],
        )
        pub.publish(topic, "x", 2, properties=sent)
        got = sub.expect(1)[0].properties
        for name in ("ContentType", "ResponseTopic", "CorrelationData", "UserProperty"):
            self.assertEqual(getattr(got, name), getattr(sent, name))
        # What is left of it after the way here.
        self.assertIn(got.MessageExpiryInterval, range(61))
        sub.stop()
        pub.stop()

    def test_subscription_options(self):
        topic = f"{RUN}/options"
        peer = Peer("own")
        peer.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
        peer.publish(topic, "own", 1)
        other = Peer("other")
        other.publish(topic, "kept", 1, True)
        self.assertEqual(peer.expect(1)[0].payload, b"kept")
        none = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        late = Peer("late")
        late.subscribe(topic, options=none)
        other.publish(topic, b"", 1, True)
        self.assertEqual(late.expect(1)[0].payload, b"")
        for each in (peer, other, late):
            each.stop()

    def test_shared_subscription(self):
        topic = f"{RUN}/shared"
        members = [Peer(f"member{n}") for n in range(6)]
        for member in members:
            member.subscribe(f"$share/group/{topic}", 1)
        pub = Peer("pub")
        for n in range(120):
            pub.publish(topic, str(n), 1)
        end = time.monotonic() + PATIENCE_S
        while sum(len(m.messages) for m in members) < 120 and time.monotonic() < end:
            time.sleep(0.05)
        got = sorted(int(x.payload) for m in members for x in m.messages)
        self.assertEqual(got, list(range(120)))
        self.assertTrue(all(m.messages for m in members), "every member has a share")
        for each in members + [pub]:
            each.stop()


@unittest.skipIf(CA_FILE, "a selector does not see what TLS has read ahead")
class Many(unittest.TestCase):
    CLIENTS = 200

    def test_all_to_all(self):
        """Every client of every version gets one message of each, on one thread."""
        selector = selectors.DefaultSelector()
        topic = f"{RUN}/all"
        state = {"subscribed": 0, "received": 0}
        peers = []

        def on_connect(client, _data, _flags, reason, _properties):
            assert not reason.is_failure, reason
            client.subscribe(f"{topic}/+", 1)

        def on_subscribe(_client, _data, _mid, _reasons, _properties):
            state["subscribed"] += 1

        def on_message(_client, seen, message):
            assert message.topic not in seen, f"twice: {message.topic}"
            seen.add(message.topic)
            state["received"] += 1

        def turn():
            for key, _events in selector.select(0.05):
                key.data.loop_read()
            for client in peers:
                client.loop_misc()
                while client.want_write():
                    client.loop_write()

        def until(met, what):
            end = time.monotonic() + 4 * PATIENCE_S
            while not met():
                assert time.monotonic() < end, f"{what}: {state}"
                turn()

        kinds = list(VERSIONS.values())
        for n in range(self.CLIENTS):
            client = mqtt.Client(
                mqtt.CallbackAPIVersion.VERSION2,
                client_id=f"{RUN}-all{n}",
                protocol=kinds[n % len(kinds)],
                userdata=set(),
                transport=TRANSPORT,
            )
            client.on_connect, client.on_subscribe = on_connect, on_subscribe
            client.on_message = on_message
            client.connect(HOST, PORT)
            selector.register(client.socket(), selectors.EVENT_READ, client)
            peers.append(client)
        until(lambda: state["subscribed"] == self.CLIENTS, "subscribing")
        for n, client in enumerate(peers):
            client.publish(f"{topic}/{n}", "x", n % 2)
        until(lambda: state["received"] == self.CLIENTS**2, "receiving")
        for client in peers:
            self.assertEqual(len(client.user_data_get()), self.CLIENTS)
            selector.unregister(client.socket())
            client.disconnect()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
