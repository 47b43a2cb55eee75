"""Fixtures of the tests that start servers, containers, clusters and workflows."""

from actions import fork, github, kept
from hosts import libraries
from images import base, docker, image
from serving import slim

__all__ = ["base", "docker", "fork", "github", "image", "kept", "libraries", "slim"]
