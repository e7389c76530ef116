"""Trained weights: conversion from the original projects, and downloads."""
