// mqtt.js through the broker: 3.1, 3.1.1 and 5.0, each QoS.
// Usage: MQTT_URL=mqtt://HOST:PORT node --test mqtt.test.js
'use strict'

const assert = require('node:assert/strict')
const { once } = require('node:events')
const { afterEach, test } = require('node:test')
const mqtt = require('mqtt')

const url = process.env.MQTT_URL
const run = `js${process.pid}`
const PATIENCE_MS = 60_000
const VERSIONS = [
  ['3.1', { protocolId: 'MQIsdp', protocolVersion: 3 }],
  ['3.1.1', { protocolId: 'MQTT', protocolVersion: 4 }],
  ['5.0', { protocolId: 'MQTT', protocolVersion: 5 }]
]

// Whatever a test leaves open, so that a failed one ends too.
const open = []
afterEach(() => open.splice(0).forEach(client => client.end(true)))

// A connected client that keeps its messages.
async function connect (name, version, more = {}) {
  const options = { clientId: `${run}-${name}`, reconnectPeriod: 0, connectTimeout: PATIENCE_MS }
  const client = mqtt.connect(url, { ...options, ...version, ...more })
  open.push(client)
  client.messages = []
  client.on('message', (topic, payload, packet) => {
    client.messages.push({ topic, text: payload.toString(), packet })
    client.emit('noted')
  })
  const signal = AbortSignal.timeout(PATIENCE_MS)
  const [connack] = await once(client, 'connect', { signal })
  client.connack = connack
  return client
}

async function expectMessages (client, count) {
  const signal = AbortSignal.timeout(PATIENCE_MS)
  while (client.messages.length < count) await once(client, 'noted', { signal })
  assert.equal(client.messages.length, count)
  return client.messages
}

for (const [name, version] of VERSIONS) {
  test(`${name}: each QoS`, async () => {
    const topic = `${run}/qos/${name}`
    const sub = await connect(`sub${name}`, version)
    const pub = await connect(`pub${name}`, version)
    const granted = await sub.subscribeAsync(`${topic}/#`, { qos: 2 })
    assert.equal(granted[0].qos, 2)
    for (const qos of [0, 1, 2]) await pub.publishAsync(`${topic}/${qos}`, `at ${qos}`, { qos })
    const got = (await expectMessages(sub, 3)).map(m => [m.topic, m.text, m.packet.qos])
    assert.deepEqual(got, [0, 1, 2].map(q => [`${topic}/${q}`, `at ${q}`, q]))
    await Promise.all([sub.endAsync(), pub.endAsync()])
  })

  test(`${name}: order under load`, async () => {
    const topic = `${run}/order/${name}`
    const sub = await connect(`sub${name}`, version)
    const pub = await connect(`pub${name}`, version)
    await sub.subscribeAsync(topic, { qos: 2 })
    const sent = [...Array(500).keys()].map(String)
    for (const qos of [0, 1, 2]) {
      sub.messages = []
      await Promise.all(sent.map(text => pub.publishAsync(topic, text, { qos })))
      assert.deepEqual((await expectMessages(sub, 500)).map(m => m.text), sent)
    }
    await Promise.all([sub.endAsync(), pub.endAsync()])
  })

  test(`${name}: retained messages and wills`, async () => {
    const topic = `${run}/kept/${name}`
    const pub = await connect(`pub${name}`, version)
    await pub.publishAsync(topic, 'kept', { qos: 1, retain: true })
    const sub = await connect(`sub${name}`, version)
    await sub.subscribeAsync(topic, { qos: 1 })
    assert.equal((await expectMessages(sub, 1))[0].packet.retain, true)
    await pub.publishAsync(topic, '', { qos: 1, retain: true })
    assert.equal((await expectMessages(sub, 2))[1].packet.retain, false)
    const will = { topic, payload: Buffer.from('will'), qos: 1, retain: false }
    const dies = await connect(`dies${name}`, version, { will })
    dies.stream.destroy()
    assert.equal((await expectMessages(sub, 3))[2].text, 'will')
    await Promise.all([sub.endAsync(), pub.endAsync(), dies.endAsync(true)])
  })

  test(`${name}: a session waits`, async () => {
    const topic = `${run}/session/${name}`
    const more = { clean: false }
    if (name === '5.0') more.properties = { sessionExpiryInterval: 600 }
    let sub = await connect(`stays${name}`, version, more)
    await sub.subscribeAsync(topic, { qos: 1 })
    await sub.endAsync()
    const pub = await connect(`pub${name}`, version)
    for (const text of ['1', '2', '3']) await pub.publishAsync(topic, text, { qos: 1 })
    sub = await connect(`stays${name}`, version, more)
    if (name !== '3.1') assert.equal(sub.connack.sessionPresent, true)
    assert.deepEqual((await expectMessages(sub, 3)).map(m => m.text), ['1', '2', '3'])
    await Promise.all([sub.endAsync(), pub.endAsync()])
  })
}

const five = VERSIONS[2][1]

test('5.0: properties, topic aliases and request with response', async () => {
  const request = `${run}/request`
  const aliases = { properties: { topicAliasMaximum: 10 }, autoAssignTopicAlias: true }
  const server = await connect('server', five, aliases)
  const client = await connect('client', five, aliases)
  server.on('message', (_topic, payload, packet) => {
    const { responseTopic, correlationData } = packet.properties
    const options = { qos: 1, properties: { correlationData } }
    server.publish(responseTopic, `answer to ${payload}`, options)
  })
  await server.subscribeAsync(request, { qos: 1, properties: { subscriptionIdentifier: 7 } })
  await client.subscribeAsync(`${run}/answer`, { qos: 1 })
  for (let n = 0; n < 20; n++) {
    const correlationData = Buffer.from([n])
    const properties = {
      responseTopic: `${run}/answer`,
      correlationData,
      contentType: 'text/plain',
      userProperties: { k: ['1', '2'] }
    }
    await client.publishAsync(request, `question ${n}`, { qos: 1, properties })
    const answer = (await expectMessages(client, n + 1))[n]
    assert.equal(answer.text, `answer to question ${n}`)
    assert.deepEqual(answer.packet.properties.correlationData, correlationData)
  }
  const asked = server.messages[0].packet.properties
  assert.equal(asked.contentType, 'text/plain')
  assert.deepEqual(asked.userProperties.k, ['1', '2'])
  assert.equal(asked.subscriptionIdentifier, 7)
  await Promise.all([server.endAsync(), client.endAsync()])
})

test('5.0: a shared group takes each message once', async () => {
  const topic = `${run}/shared`
  const members = await Promise.all([...Array(6).keys()].map(n => connect(`member${n}`, five)))
  for (const member of members) await member.subscribeAsync(`$share/g/${topic}`, { qos: 1 })
  const pub = await connect('pub', five)
  const sent = [...Array(120).keys()].map(String)
  for (const text of sent) await pub.publishAsync(topic, text, { qos: 1 })
  const end = Date.now() + PATIENCE_MS
  const got = () => members.flatMap(m => m.messages.map(x => x.text))
  while (got().length < 120 && Date.now() < end) {
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  assert.deepEqual(got().sort((a, b) => a - b), sent)
  await Promise.all([...members, pub].map(c => c.endAsync()))
})

test('5.0: a taken over client is told', async () => {
  const old = await connect('same', five)
  const told = once(old, 'disconnect', { signal: AbortSignal.timeout(PATIENCE_MS) })
  const next = await connect('same', five)
  const [packet] = await told
  assert.equal(packet.reasonCode, 0x8E)
  await Promise.all([next.endAsync(), old.endAsync(true)])
})
