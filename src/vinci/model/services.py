# SPDX-License-Identifier: GPL-2.0-or-later
"""Services by name: the well-known ones, those of the file, and `tcp/502`."""

from __future__ import annotations

from vinci.model.infrastructure import Infrastructure, Protocol, Service, ServiceRef


def _tcp(port: int) -> Service:
    return Service(protocol=Protocol.TCP, port=port)


def _udp(port: int) -> Service:
    return Service(protocol=Protocol.UDP, port=port)


WELL_KNOWN: dict[str, Service] = {
    "amqps": _tcp(5671),
    "dns": _udp(53),
    "dns-tcp": _tcp(53),
    "dnp3": _tcp(20000),
    "ftp": _tcp(21),
    "git": _tcp(9418),
    "http": _tcp(80),
    "https": _tcp(443),
    "iec104": _tcp(2404),
    "imaps": _tcp(993),
    "ipp": _tcp(631),
    "kerberos": _tcp(88),
    "ldap": _tcp(389),
    "ldaps": _tcp(636),
    "modbus": _tcp(502),
    "mqtt": _tcp(1883),
    "mqtts": _tcp(8883),
    "mysql": _tcp(3306),
    "nfs": _tcp(2049),
    "ntp": _udp(123),
    "opcua": _tcp(4840),
    "pop3s": _tcp(995),
    "postgres": _tcp(5432),
    "rdp": _tcp(3389),
    "redis": _tcp(6379),
    "s7": _tcp(102),
    "smb": _tcp(445),
    "smtp": _tcp(25),
    "snmp": _udp(161),
    "snmp-trap": _udp(162),
    "ssh": _tcp(22),
    "submission": _tcp(587),
    "submissions": _tcp(465),
    "syslog": _udp(514),
    "syslog-tls": _tcp(6514),
    "vnc": _tcp(5900),
}
"""IANA's service names and ports, as far as they are of use here. The file's `services:` adds to them."""


class ServiceError(ValueError):
    """A service that nobody declared, or a port that does not exist."""


def resolve_service(infrastructure: Infrastructure, reference: ServiceRef) -> Service:
    """The protocol and port that `reference` means. Raises ServiceError."""
    if isinstance(reference, Service):
        return reference
    protocol, slash, number = reference.partition("/")
    if slash:
        port = int(number)
        if not 1 <= port <= 65_535:
            raise ServiceError(f"port {number} does not exist; ports are 1 to 65535")
        return Service(protocol=Protocol(protocol), port=port)
    service = infrastructure.services.get(reference) or WELL_KNOWN.get(reference)
    if service is None:
        raise ServiceError(f'unknown service "{reference}"')
    return service


def service_name(infrastructure: Infrastructure, service: Service) -> str:
    """How to call a service in messages: `https (tcp/443)`, `tcp/8080`."""
    written = f"{service.protocol}/{service.port}"
    for names in (infrastructure.services, WELL_KNOWN):
        for name, known in names.items():
            if known == service:
                return f"{name} ({written})"
    return written
