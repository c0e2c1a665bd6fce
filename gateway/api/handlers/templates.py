"""Templates, images and CDs that are there, templates that PVE's catalogue offers, and how one gets here."""

from __future__ import annotations

from typing import Any

from gateway.api.call import Call, Reply
from gateway.api.models.kept import TemplateList, TemplateRequest, TemplatesQuery, TemplateView
from gateway.api.paging import cut
from gateway.api.services import Services
from gateway.api.work import answer, make_change
from gateway.pve.ids import Upid
from gateway.pve.resources import Appliance, Volume


def list_templates(services: Services, call: Call) -> Reply:
    """A page of those of this node, by name."""
    asked: TemplatesQuery = call.query
    views = _offered(services) if asked.available else _present(services, asked.storage, asked.content)
    part, following = cut(views, lambda view: view["volume"] or view["name"], asked)
    page: TemplateList = {"templates": list(part), "next": following}
    return Reply(page)


def download_template(services: Services, call: Call) -> Reply:
    """Of PVE's catalogue alone: no URL of a request is ever fetched."""
    asked: TemplateRequest = call.body
    node = services.config.node
    data = {"storage": asked.storage, "template": asked.template}

    def act() -> Upid:
        return services.pve.storages.download(node, asked.storage, asked.template)

    reply = answer(services, call, make_change(services, call, act, node=node, vmid=None, data=data))
    work: dict[str, Any] = reply.body
    work["volume"] = f"{asked.storage}:vztmpl/{asked.template}"
    return reply


def _present(services: Services, storage: str | None, content: str) -> list[TemplateView]:
    node, storages = services.config.node, services.pve.storages
    if storage is not None:
        places = [storage]
    else:
        places = [place.name for place in storages.on_node(node, content=content) if place.active and place.enabled]
    return [_show_volume(volume) for place in places for volume in storages.volumes(node, place, content=content)]


def _offered(services: Services) -> list[TemplateView]:
    return [_show_appliance(appliance) for appliance in services.pve.storages.appliances(services.config.node)]


def _show_volume(volume: Volume) -> TemplateView:
    name = volume.volume.rpartition("/")[2]
    return {
        "name": name,
        "volume": volume.volume,
        "size": volume.size,
        "os": None,
        "version": None,
        "headline": None,
    }


def _show_appliance(appliance: Appliance) -> TemplateView:
    return {
        "name": appliance.template,
        "volume": None,
        "size": None,
        "os": appliance.os,
        "version": appliance.version,
        "headline": appliance.headline,
    }
