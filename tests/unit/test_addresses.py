from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isoform.errors import DescriptorError
from isoform.model import Port
from isoform.model.addresses import plan_hosts, plan_links, plan_ports, usable
from isoform.model.descriptor import ServiceSpec
from isoform.model.descriptor_checks import check

LINKS = {
    "four": {"cidr": "10.0.1.0/24"}, "six": {"cidr6": "fd00:1::/64"},
    "both": {"cidr": "10.0.2.0/24", "cidr6": "fd00:2::/64"},
    "small": {"cidr": "10.0.3.0/28", "cidr6": "fd00:3::/124"},
}


def service(functions: dict[str, Any], links: dict[str, Any] | None = None) -> ServiceSpec:
    full = {name: {"image": "./x.yaml", **value} for name, value in functions.items()}
    return ServiceSpec.model_validate({"service": "edge", "links": links or LINKS, "functions": full})


def taken_from(ports: dict[tuple[str, int], tuple[Port, ...]]) -> dict[tuple[str, int, str], Port]:
    return {(*key, port.link): port for key, mine in ports.items() for port in mine}


@st.composite
def services(draw: st.DrawFn) -> ServiceSpec:
    functions: dict[str, Any] = {}
    for index in range(draw(st.integers(1, 5))):
        replicas = draw(st.integers(1, 3))
        ports: dict[str, Any] = {}
        for link in draw(st.lists(st.sampled_from(list(LINKS)), unique=True)):
            fixed = []
            for network in map(ipaddress.ip_network, LINKS[link].values()):
                if replicas == 1 and draw(st.booleans()):
                    fixed.append(str(network[draw(st.integers(1, 13))]))
            ports[link] = {"addresses": fixed} if fixed else {}
            if replicas == 1 and draw(st.booleans()):
                ports[link]["mac"] = f"02:00:00:00:00:{draw(st.integers(0, 255)):02x}"
            if draw(st.booleans()):
                ports[link]["interface"] = draw(st.sampled_from(["eth0", "eth1", "eth3", "wan"]))
        functions[f"f{index}"] = {"ports": ports, "replicas": replicas}
    spec = service(functions)
    try:
        check(spec, lambda path, key=False: "")
    except DescriptorError:
        assume(False)
    return spec


@settings(max_examples=60, deadline=None)
@given(services())
def test_ports_are_sound(spec: ServiceSpec) -> None:
    ports = plan_ports(spec)
    assert list(ports) == [(name, replica) for name, f in spec.functions.items() for replica in range(f.replicas)]
    seen, macs = set(), []
    for link in plan_links(spec):
        seen.update(probe.split("/")[0] for probe in link.probe)
    for (name, _), mine in ports.items():
        declared = spec.functions[name].ports
        assert [port.link for port in mine] == list(declared)
        assert len({port.interface for port in mine}) == len(mine)
        for port in mine:
            link, wish = spec.links[port.link], declared[port.link]
            assert wish.mac in ("", port.mac) and wish.interface in ("", port.interface)
            addresses = [ipaddress.ip_interface(text) for text in port.addresses]
            assert {address.version for address in addresses} == \
                {version for version, text in ((4, link.cidr), (6, link.cidr6)) if text}
            for address in addresses:
                assert str(address.network) in (link.cidr, link.cidr6)
                assert usable(address.network)[0] <= int(address.ip) <= usable(address.network)[1]
                assert str(address.ip) not in seen
                seen.add(str(address.ip))
            assert set(wish.addresses) <= {str(address.ip) for address in addresses}
            assert int(port.mac[:2], 16) & 3 == 2 or wish.mac, "locally administered, unicast"
            macs.append(port.mac)
    assert len(set(macs)) == len(macs)


@settings(max_examples=40, deadline=None)
@given(services())
def test_a_second_plan_changes_nothing(spec: ServiceSpec) -> None:
    first = plan_ports(spec)
    assert plan_ports(spec) == first
    assert plan_ports(spec, taken_from(first)) == first


@settings(max_examples=40, deadline=None)
@given(services(), st.data())
def test_another_function_changes_no_address_of_those_that_run(spec: ServiceSpec, data: st.DataObject) -> None:
    before = plan_ports(spec)
    links = data.draw(st.lists(st.sampled_from(["four", "six", "both"]), unique=True))
    new = service({"new": {"ports": links, "replicas": data.draw(st.integers(1, 3))}}).functions["new"]
    functions = list(spec.functions.items())
    functions.insert(data.draw(st.integers(0, len(functions))), ("new", new))
    after = plan_ports(spec.model_copy(update={"functions": dict(functions)}), taken_from(before))
    assert {key: after[key] for key in before} == before


@settings(max_examples=40, deadline=None)
@given(services(), st.data())
def test_removing_a_function_changes_no_address_of_the_rest(spec: ServiceSpec, data: st.DataObject) -> None:
    assume(len(spec.functions) > 1)
    before = plan_ports(spec)
    gone = data.draw(st.sampled_from(list(spec.functions)))
    rest = {name: function for name, function in spec.functions.items() if name != gone}
    after = plan_ports(spec.model_copy(update={"functions": rest}), taken_from(before))
    assert after == {key: ports for key, ports in before.items() if key[0] != gone}


def addresses(spec: ServiceSpec, taken: Any = None) -> dict[tuple[str, int], tuple[str, ...]]:
    return {key: tuple(a for port in mine for a in port.addresses) for key, mine in plan_ports(spec, taken).items()}


def test_lowest_free_first_and_both_families_alike() -> None:
    spec = service({"a": {"ports": ["both"]}, "b": {"ports": {"both": "10.0.2.1"}},
                    "c": {"ports": {"both": "fd00:2::7"}}, "d": {"ports": ["both"]}})
    assert addresses(spec) == {
        ("a", 0): ("10.0.2.2/24", "fd00:2::2/64"), ("b", 0): ("10.0.2.1/24", "fd00:2::1/64"),
        ("c", 0): ("10.0.2.3/24", "fd00:2::7/64"), ("d", 0): ("10.0.2.4/24", "fd00:2::4/64"),
    }


def test_a_taken_host_number_falls_back_to_the_lowest() -> None:
    spec = service({"a": {"ports": {"both": "fd00:2::1"}}, "b": {"ports": ["both"]},
                    "c": {"ports": {"both": "10.0.2.200"}}},
                   {"both": {"cidr": "10.0.2.0/24", "cidr6": "fd00:2::/122"}})
    assert addresses(spec) == {
        ("a", 0): ("10.0.2.1/24", "fd00:2::1/122"), ("b", 0): ("10.0.2.2/24", "fd00:2::2/122"),
        ("c", 0): ("10.0.2.200/24", "fd00:2::3/122"),
    }


@pytest.mark.parametrize(("link", "functions", "probe"), [
    ({"cidr": "10.0.1.0/24"}, 1, ("10.0.1.254/24",)),
    ({"cidr": "10.0.1.0/24", "cidr6": "fd00::/64"}, 1, ("10.0.1.254/24", "fd00::ffff:ffff:ffff:ffff/64")),
    ({"cidr": "10.0.1.0/24", "probe": "10.0.1.1"}, 1, ("10.0.1.1/24",)),
    ({"cidr": "10.0.1.0/24", "cidr6": "fd00::/64", "probe": "fd00::9"}, 1, ("10.0.1.254/24", "fd00::9/64")),
    ({"cidr": "10.0.1.0/29"}, 5, ("10.0.1.6/29",)),
    ({"cidr": "10.0.1.0/29"}, 6, ()),
    ({"cidr": "10.0.1.0/30"}, 1, ("10.0.1.2/30",)),
    ({"cidr": "10.0.1.0/30"}, 2, ()),
    ({"cidr": "10.0.1.0/31"}, 1, ()),
    ({"cidr": "10.0.1.4/32"}, 1, ()),
    ({"cidr6": "fd00::/127"}, 1, ()),
])
def test_the_address_of_the_fabric(link: dict[str, Any], functions: int, probe: tuple[str, ...]) -> None:
    spec = service({f"f{number}": {"ports": ["l"]} for number in range(functions)}, {"l": link})
    check(spec, lambda path, key=False: "")
    assert plan_links(spec)[0].probe == probe
    assert len(plan_ports(spec)) == functions


def test_an_exhausted_range_says_how_many_it_has() -> None:
    spec = service({"web": {"ports": ["l"], "replicas": 7}}, {"l": {"cidr": "10.0.1.0/29"}})
    with pytest.raises(DescriptorError, match=r"10\.0\.1\.0/29 has no free address left") as caught:
        plan_ports(spec)
    assert "it has 6 usable ones" in caught.value.why


def test_a_fixed_address_must_not_oust_who_has_it() -> None:
    before = plan_ports(service({"web": {"ports": ["four"]}}))
    spec = service({"web": {"ports": ["four"]}, "db": {"ports": {"four": "10.0.1.1"}}})
    with pytest.raises(DescriptorError, match=r"functions\.web\.ports\.four: its address 10\.0\.1\.1"):
        plan_ports(spec, taken_from(before))
    moved = service({"web": {"ports": {"four": "10.0.1.2"}}, "db": {"ports": {"four": "10.0.1.1"}}})
    assert addresses(moved, taken_from(before)) == {("web", 0): ("10.0.1.2/24",), ("db", 0): ("10.0.1.1/24",)}


def test_what_no_longer_fits_is_given_anew() -> None:
    before = taken_from(plan_ports(service({"web": {"ports": ["both"]}})))
    links = {"both": {"cidr": "10.0.9.0/24", "cidr6": "fd00:2::/64"}}
    after = plan_ports(service({"web": {"ports": ["both"]}}, links), before)["web", 0][0]
    assert after.addresses == ("10.0.9.1/24", "fd00:2::1/64")
    assert after.mac == before["web", 0, "both"].mac


def test_a_released_address_is_taken_last() -> None:
    links = {"l": {"cidr": "10.0.1.0/29"}}
    before = taken_from(plan_ports(service({"old": {"ports": ["l"]}}, links)))
    one = service({"web": {"ports": ["l"]}}, links)
    assert addresses(one, before) == {("web", 0): ("10.0.1.2/29",)}
    all_of_them = service({"web": {"ports": ["l"], "replicas": 6}}, links)
    assert sorted(addresses(all_of_them, before).values()) == [(f"10.0.1.{n}/29",) for n in range(1, 7)]


def test_interfaces_keep_their_numbers_when_ports_come_and_go() -> None:
    before = taken_from(plan_ports(service({"web": {"ports": ["four", "six"]}})))
    after = plan_ports(service({"web": {"ports": ["both", "six"]}}), before)["web", 0]
    assert [(port.link, port.interface) for port in after] == [("both", "eth0"), ("six", "eth1")]
    named = plan_ports(service({"web": {"ports": {"four": {}, "six": {"interface": "eth0"}}}}))["web", 0]
    assert [(port.link, port.interface) for port in named] == [("four", "eth1"), ("six", "eth0")]


def test_a_mac_is_the_same_everywhere_and_always() -> None:
    assert plan_ports(service({"web": {"ports": ["four"]}}))["web", 0][0].mac == "02:bb:60:d3:f8:50"


def test_mac_collisions_are_resolved() -> None:
    own = plan_ports(service({"web": {"ports": ["four"]}}))["web", 0][0].mac
    spec = service({"web": {"ports": ["four"]}, "thief": {"ports": {"four": {"mac": own}}}})
    ports = plan_ports(spec)
    assert ports["thief", 0][0].mac == own != ports["web", 0][0].mac


def test_hosts_are_who_shares_a_link() -> None:
    spec = service({"client": {"ports": ["four"]}, "gateway": {"ports": ["four", "both"]},
                    "web": {"ports": ["both"], "replicas": 2}, "alone": {}})
    hosts = plan_hosts(spec, plan_ports(spec))
    assert hosts["client", 0] == (("10.0.1.1", "client"), ("10.0.1.2", "gateway"))
    assert hosts["web", 1] == (
        ("10.0.2.1", "gateway"), ("fd00:2::1", "gateway"),
        ("10.0.2.2", "web-0"), ("10.0.2.2", "web"), ("fd00:2::2", "web-0"), ("fd00:2::2", "web"),
        ("10.0.2.3", "web-1"), ("10.0.2.3", "web"), ("fd00:2::3", "web-1"), ("fd00:2::3", "web"))
    assert hosts["gateway", 0][:2] == hosts["client", 0]
    assert hosts["gateway", 0][2:] == hosts["web", 1]
    assert hosts["alone", 0] == ()
